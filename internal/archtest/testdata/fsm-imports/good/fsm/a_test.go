package fsm_test

import (
	_ "os"
)
