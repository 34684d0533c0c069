package demo

import (
	_ "github.com/pacelinehq/paceline/client"
)
