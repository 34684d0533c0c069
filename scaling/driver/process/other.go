//go:build !linux

package process

import (
	"runtime"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// New says that this system can not run instances: adoption and limits rest on
// what Linux tells about processes.
func New(Config) (driver.Driver, error) {
	return nil, fsm.Errorf(fsm.Unavailable, "driver", Name, "needs Linux, this is %s", runtime.GOOS)
}
