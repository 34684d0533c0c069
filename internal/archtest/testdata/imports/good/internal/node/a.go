package node

import (
	_ "github.com/pacelinehq/paceline/cluster"
	_ "github.com/pacelinehq/paceline/fsm"
	_ "github.com/pacelinehq/paceline/httpapi"
	_ "github.com/pacelinehq/paceline/scaling/driver/process"
)
