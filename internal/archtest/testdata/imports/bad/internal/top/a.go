package top

import (
	_ "github.com/pacelinehq/paceline/internal/cli"
	_ "github.com/pacelinehq/paceline/routing/proxy"
)
