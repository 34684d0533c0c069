package a_test

import "time"

func f() {
	//archtest:ok virtual time of testing/synctest: nothing waits
	time.Sleep(time.Hour)
	time.Sleep(time.Hour) //archtest:ok virtual time as well
}
