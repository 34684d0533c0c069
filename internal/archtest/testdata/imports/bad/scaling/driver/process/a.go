package process

import (
	_ "github.com/pacelinehq/paceline/httpapi"
	_ "github.com/pacelinehq/paceline/scaling/driver"
)
