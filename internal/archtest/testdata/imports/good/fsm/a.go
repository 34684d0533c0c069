package fsm

import (
	_ "fmt"
)
