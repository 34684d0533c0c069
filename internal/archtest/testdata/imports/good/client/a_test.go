package client_test

import (
	_ "github.com/pacelinehq/paceline/client"
	_ "github.com/pacelinehq/paceline/httpapi"
)
