package cli

import (
	_ "github.com/pacelinehq/paceline/httpapi"
)
