package cluster

import (
	_ "github.com/pacelinehq/paceline/cluster/sub"
	_ "github.com/pacelinehq/paceline/fsm"
)
