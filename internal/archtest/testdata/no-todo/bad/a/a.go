package a

// TODO: later.

func f() {
	_ = 0 // FIXME
	/*
		XXX
	*/
}
