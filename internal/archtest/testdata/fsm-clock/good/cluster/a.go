package cluster

import "time"

var start = time.Now()
