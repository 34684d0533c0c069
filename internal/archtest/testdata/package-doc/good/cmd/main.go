// Paceline runs things.
package main
