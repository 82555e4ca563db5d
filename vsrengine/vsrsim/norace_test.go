//go:build !race

package vsrsim

const raceEnabled = false
