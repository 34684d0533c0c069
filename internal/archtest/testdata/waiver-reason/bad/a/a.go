package a

//archtest:ok
var x int

var y int //archtest:ok
