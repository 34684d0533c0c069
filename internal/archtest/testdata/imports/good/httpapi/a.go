package httpapi

import (
	_ "github.com/pacelinehq/paceline/client"
	_ "github.com/pacelinehq/paceline/fsm"
	_ "github.com/pacelinehq/paceline/httpapi/ui"
)
