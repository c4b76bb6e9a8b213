// Command sluice relays the streams of the Claude API to browsers. See README.md, and go doc ./gateway for its rooms.
package main

import (
	"os"

	"sluice/gateway/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], cli.System())) }
