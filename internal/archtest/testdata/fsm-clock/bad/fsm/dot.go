package fsm

import . "time"

var at = Now()
