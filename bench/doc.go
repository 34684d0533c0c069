// Paceline-bench compares a three-node Paceline with a three-node etcd on one
// machine: both as three processes on loopback, both with fsync, measured in
// turn within one run by the same load generator.
//
// See DESIGN.md beside this file for the method.
package main
