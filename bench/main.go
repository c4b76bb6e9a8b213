// Command bench measures an SSE relay from outside: it plays Claude on one side and many browsers on the other, so that any
// relay (Sluice, nginx, a plain Go proxy) does the same work in the same run, and its CPU and memory are read from the
// system.
//
//	go run ./bench compare -sluice ./sluice     all works, Sluice beside its peers, into a file of results
//	go run ./bench report results.jsonl         their tables, and a plot
//	go run ./bench upstream                     a Claude-shaped upstream
//	go run ./bench drive -url …                 many browsers; one JSON line of figures
//	go run ./bench proxy                        httputil.ReverseProxy, to compare with
//
// The shape of a stream is its model's name: bench-e200-i50-b32 sends 200 text deltas, one every 50 ms, each padded with 32
// bytes. Further parts: f300 waits 300 ms before the first byte, g300 before the first delta, x20 cuts the connection after
// 20 deltas, o1 answers the first request of the process with 529. Each delta carries "#number@unixnanos;", by which the
// driver knows order, loss and delay.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

var commands = map[string]func(ctx context.Context, args []string) error{
	"compare":  compareMain,
	"drive":    driveMain,
	"proxy":    proxyMain,
	"report":   reportMain,
	"upstream": upstreamMain,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run returns the exit code: 1 where a command failed or found a failure, 2 where it was not understood.
func run(ctx context.Context, args []string) int {
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprintln(os.Stderr, "usage: bench compare|report|drive|upstream|proxy [flags]; -h tells a command's flags")
		return 2
	}
	err := commands[args[0]](ctx, args[1:])
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage): // the flag package has said it
		return 2
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	return 1
}

var errUsage = errors.New("usage")

// parse reads a command's flags. Only as many other arguments as asked for may be there.
func parse(flags *flag.FlagSet, args []string, others int) error {
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return errUsage
	}
	if flags.NArg() != others {
		fmt.Fprintf(os.Stderr, "bench %s: takes %d arguments besides flags, not %d: %q\n", flags.Name(), others, flags.NArg(), flags.Args())
		return errUsage
	}
	return nil
}
