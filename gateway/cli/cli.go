// Package cli is the command: what each word does, what it prints, and its exit code.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"sluice/gateway"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // a bad command line or configuration
)

// Environment is what a command touches outside of itself.
type Environment struct {
	Stdout, Stderr io.Writer
	Getenv         func(string) (string, bool)
	Context        context.Context // its end is the wish to stop; nil: SIGINT or SIGTERM
}

// System is the process's own environment.
func System() Environment {
	return Environment{Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.LookupEnv}
}

// command is one word of the command line.
type command struct {
	name, args, does string
	run              func(Environment, []string) int
}

var commands []command

func init() { // not in the declaration: serve's usage lists the commands
	commands = []command{
		{"serve", "[-config config.yaml]", "serves; the word may be left out", serve},
		{"demo", "[-listen 127.0.0.1:8080]", "serves with a simulated Claude and a page to look at; needs no key, network or file", demo},
		{"check", "[-config config.yaml]", "checks the configuration and says what it would do", check},
		{"key", "[-id ID]", "makes an API key and the line for the configuration", key},
		{"tail", "[-text] URL", "follows a stream's events URL to its end", tail},
		{"health", "[-config config.yaml]", "asks a running gateway whether it lives", health},
		{"version", "", "prints the version", version},
	}
}

// Main runs the command that args name and returns its exit code.
func Main(args []string, env Environment) int {
	if env.Context == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop) // a second signal ends the process at once
		env.Context = ctx
	}
	if len(args) > 0 {
		switch args[0] {
		case "help", "-h", "-help", "--help":
			usage(env.Stdout)
			return exitOK
		}
		for _, c := range commands {
			if c.name == args[0] {
				return c.run(env, args[1:])
			}
		}
		if args[0] == "" || args[0][0] != '-' {
			fmt.Fprintf(env.Stderr, "sluice: there is no command %q\n\n", args[0])
			usage(env.Stderr)
			return exitUsage
		}
	}
	return serve(env, args)
}

func usage(w io.Writer) {
	fmt.Fprint(w, "Sluice relays the streams of the Claude API to browsers: numbered, resumable, paced.\n\nUsage:\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  sluice %-34s %s\n", c.name+" "+c.args, c.does)
	}
}

// flags makes the flag set of a command; its errors go to stderr.
func flags(env Environment, name string) *flag.FlagSet {
	fs := flag.NewFlagSet("sluice "+name, flag.ContinueOnError)
	fs.SetOutput(env.Stderr)
	return fs
}

// parse reads the flags and returns the arguments after them. If ok is false the command is over, with code.
func parse(env Environment, fs *flag.FlagSet, args []string, want int) (rest []string, code int, ok bool) {
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil, exitOK, false
	case err != nil:
		return nil, exitUsage, false
	case fs.NArg() != want:
		fmt.Fprintf(env.Stderr, "%s: takes %d arguments, not %d\n", fs.Name(), want, fs.NArg())
		fs.Usage()
		return nil, exitUsage, false
	}
	return fs.Args(), 0, true
}

// load reads the configuration and prints what is wrong with it.
func load(env Environment, path string) (gateway.Config, bool) {
	cfg, warnings, err := gateway.LoadConfig(path, env.Getenv)
	for _, w := range warnings {
		fmt.Fprintf(env.Stderr, "warning: %s\n", w)
	}
	if err != nil {
		fmt.Fprintln(env.Stderr, err)
		if errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(env.Stderr, "Name another with -config, or try `sluice demo`, which needs none.")
		}
		return cfg, false
	}
	return cfg, true
}

func logger(env Environment, cfg gateway.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(env.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(env.Stderr, options))
}

// release is set by the build: -ldflags "-X sluice/gateway/cli.release=1.2.3".
var release string

// Version is the release, or what the build knows of its source.
func Version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "devel"
}

func version(env Environment, args []string) int {
	if _, code, ok := parse(env, flags(env, "version"), args, 0); !ok {
		return code
	}
	fmt.Fprintf(env.Stdout, "sluice %s\n", Version())
	return exitOK
}
