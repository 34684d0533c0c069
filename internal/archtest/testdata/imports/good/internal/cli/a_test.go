package cli_test

import (
	_ "github.com/pacelinehq/paceline/httpapi"
)
