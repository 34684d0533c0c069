package a

type t struct{}

func (t) init() {}

func f() { t{}.init() }
