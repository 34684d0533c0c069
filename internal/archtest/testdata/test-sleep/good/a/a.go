package a

import "time"

func f() {
	time.Sleep(time.Second)
}
