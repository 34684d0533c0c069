package sim

import (
	_ "github.com/pacelinehq/paceline/cluster"
	_ "github.com/pacelinehq/paceline/internal/node"
)
