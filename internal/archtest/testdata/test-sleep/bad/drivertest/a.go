package drivertest

import "time"

func f() {
	time.Sleep(time.Second)
}
