package httpapi_test

import (
	_ "github.com/pacelinehq/paceline/cluster"
)
