package fsm_test

func f() { go func() {}() }
