package top

import (
	_ "github.com/pacelinehq/paceline/client"
	_ "github.com/pacelinehq/paceline/fsm"
)
