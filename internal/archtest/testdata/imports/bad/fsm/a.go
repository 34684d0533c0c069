package fsm

import (
	_ "github.com/pacelinehq/paceline/cluster"
)
