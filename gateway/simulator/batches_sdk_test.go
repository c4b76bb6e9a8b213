package simulator

import (
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

func TestGoSDKsBatchHelpersWork(t *testing.T) {
	s := New(Options{Key: "sk-test"})
	server := httptest.NewServer(s)
	defer server.Close()
	client := anthropic.NewClient(option.WithoutEnvironmentDefaults(), option.WithHTTPClient(server.Client()), option.WithBaseURL(server.URL), option.WithAPIKey("sk-test"), option.WithMaxRetries(0))
	batches := client.Messages.Batches

	request := func(id, prompt string) anthropic.MessageBatchNewParamsRequest {
		return anthropic.MessageBatchNewParamsRequest{CustomID: id, Params: anthropic.MessageBatchNewParamsRequestParams{
			Model: "claude-sonnet-4-6", MaxTokens: 4096,
			Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(prompt))},
		}}
	}
	made, err := batches.New(t.Context(), anthropic.MessageBatchNewParams{Requests: []anthropic.MessageBatchNewParamsRequest{
		request("good", "think"), request("large", "fault:giant=200000"), request("bad", "fault:529"), request("late", "fault:expire"),
	}})
	if err != nil || made.ProcessingStatus != anthropic.MessageBatchProcessingStatusInProgress || made.RequestCounts.Processing != 4 || time.Since(made.CreatedAt) > time.Minute {
		t.Fatalf("%v %+v", err, made)
	}
	ended, err := batches.Get(t.Context(), made.ID, anthropic.MessageBatchGetParams{})
	if err != nil || ended.ProcessingStatus != anthropic.MessageBatchProcessingStatusEnded || ended.RequestCounts.Succeeded != 2 || ended.ResultsURL != server.URL+"/v1/messages/batches/"+made.ID+"/results" {
		t.Fatalf("%v %+v", err, ended)
	}
	got := map[string]string{}
	stream := batches.ResultsStreaming(t.Context(), made.ID, anthropic.MessageBatchResultsParams{})
	for stream.Next() {
		one := stream.Current()
		got[one.CustomID] = one.Result.Type
		switch result := one.Result.AsAny().(type) {
		case anthropic.MessageBatchSucceededResult:
			if result.Message.Usage.OutputTokens == 0 || result.Message.StopReason != anthropic.StopReasonEndTurn || len(result.Message.Content) == 0 {
				t.Errorf("%+v", result.Message)
			}
		case anthropic.MessageBatchErroredResult:
			if result.Error.Error.Type != "overloaded_error" || result.Error.Error.Message == "" {
				t.Errorf("%+v", result.Error)
			}
		}
	}
	stream.Close()
	if err := stream.Err(); err != nil || len(got) != 4 || got["good"] != "succeeded" || got["large"] != "succeeded" || got["bad"] != "errored" || got["late"] != "expired" {
		t.Errorf("%v %v", err, got)
	}

	long, err := batches.New(t.Context(), anthropic.MessageBatchNewParams{Requests: []anthropic.MessageBatchNewParamsRequest{request("long", "fault:batch-time")}})
	if err != nil {
		t.Fatal(err)
	}
	canceled, err := batches.Cancel(t.Context(), long.ID, anthropic.MessageBatchCancelParams{})
	if err != nil || canceled.ProcessingStatus != anthropic.MessageBatchProcessingStatusCanceling || canceled.CancelInitiatedAt.IsZero() {
		t.Fatalf("%v %+v", err, canceled)
	}

	var listed []string
	pages := batches.ListAutoPaging(t.Context(), anthropic.MessageBatchListParams{Limit: anthropic.Int(1)})
	for pages.Next() {
		listed = append(listed, pages.Current().ID)
	}
	if err := pages.Err(); err != nil || len(listed) != 2 || listed[0] != long.ID || listed[1] != made.ID {
		t.Errorf("%v %v", err, listed)
	}

	deleted, err := batches.Delete(t.Context(), made.ID, anthropic.MessageBatchDeleteParams{})
	if err != nil || deleted.ID != made.ID {
		t.Errorf("%v %+v", err, deleted)
	}
	var refusal *anthropic.Error
	if _, err := batches.Get(t.Context(), made.ID, anthropic.MessageBatchGetParams{}); !errors.As(err, &refusal) || refusal.StatusCode != 404 {
		t.Errorf("a deleted batch: %v", err)
	}
}
