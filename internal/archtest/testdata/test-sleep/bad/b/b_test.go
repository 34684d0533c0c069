package b_test

import "time"

func f() {
	//archtest:ok
	time.Sleep(1)
}
