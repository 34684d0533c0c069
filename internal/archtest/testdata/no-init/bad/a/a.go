package a

var x int

func init() { x = 1 }
