package a_test

func TestX() {}
