package main

import (
	_ "github.com/pacelinehq/paceline/client"
	_ "github.com/pacelinehq/paceline/internal/node"
)
