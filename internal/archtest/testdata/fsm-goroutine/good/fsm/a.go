package fsm

func f() { func() {}() }
