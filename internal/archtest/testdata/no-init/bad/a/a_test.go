package a_test

func init() {}
