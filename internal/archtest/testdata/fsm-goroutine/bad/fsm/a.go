package fsm

func f(c chan int) {
	go func() {}()
	select {
	case <-c:
	default:
	}
}
