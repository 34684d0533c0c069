package bench

import (
	_ "github.com/pacelinehq/paceline/fsm"
)
