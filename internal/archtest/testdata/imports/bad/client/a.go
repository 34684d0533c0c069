package client

import (
	_ "github.com/pacelinehq/paceline/httpapi"
)
