package fsm

import (
	_ "encoding/json"
	_ "slices"
	_ "sync/atomic"
	_ "time"
)
