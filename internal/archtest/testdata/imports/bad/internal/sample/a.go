package sample

import (
	_ "github.com/pacelinehq/paceline/fsm"
)
