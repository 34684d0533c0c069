package main

import (
	_ "github.com/pacelinehq/paceline/cluster"
)
