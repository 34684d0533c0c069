package node

import (
	_ "github.com/pacelinehq/paceline/internal/sim"
)
