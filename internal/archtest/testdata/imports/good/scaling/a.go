package scaling

import (
	_ "github.com/pacelinehq/paceline/fsm"
	_ "github.com/pacelinehq/paceline/scaling/driver"
)
