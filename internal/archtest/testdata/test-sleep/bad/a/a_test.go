package a_test

import "time"

func f() {
	time.Sleep(time.Second)
}
