package peer

import (
	"context"
	"fmt"
	"os"
)

// Logger passes opamp-go's log to stderr: errors always, the rest on demand.
type Logger struct {
	Verbose bool
}

// Debugf implements opamp-go's Logger.
func (l Logger) Debugf(_ context.Context, format string, v ...any) {
	if l.Verbose {
		fmt.Fprintf(os.Stderr, "debug: "+format+"\n", v...)
	}
}

// Errorf implements opamp-go's Logger.
func (l Logger) Errorf(_ context.Context, format string, v ...any) {
	fmt.Fprintf(os.Stderr, "error: "+format+"\n", v...)
}
