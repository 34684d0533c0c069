package scaling

import (
	_ "github.com/pacelinehq/paceline/cluster"
	_ "github.com/pacelinehq/paceline/routing"
)
