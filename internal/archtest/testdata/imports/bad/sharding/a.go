package sharding

import (
	_ "github.com/pacelinehq/paceline/scaling"
)
