// This package is wrong.
package wrong
