// Paceline-bench compares Paceline with what people know, each time within one
// run on one machine by the same load generator: a three-node cluster with a
// three-node etcd ("core"), and the proxy with haproxy, nginx and caddy
// ("routing").
//
// See DESIGN.md beside this file for the method.
package main
