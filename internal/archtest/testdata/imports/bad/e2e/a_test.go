package e2e_test

import (
	_ "github.com/pacelinehq/paceline/internal/node"
)
