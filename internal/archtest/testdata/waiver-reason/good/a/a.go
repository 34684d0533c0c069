package a

//archtest:ok this is the reason
var x int
