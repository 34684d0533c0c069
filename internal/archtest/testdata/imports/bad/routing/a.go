package routing

import (
	_ "github.com/pacelinehq/paceline/cluster"
)
