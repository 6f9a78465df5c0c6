# An HTTP server for one request, on the loopback device: `serve.pl PORT TEXT`.
use IO::Socket::INET;
my ($port, $text) = @ARGV;
my $server = IO::Socket::INET->new(
    LocalAddr => "127.0.0.1", LocalPort => $port, Listen => 1, ReuseAddr => 1
) or die "cannot listen: $@";
print "listening\n";
close STDOUT;
my $client = $server->accept;
while (<$client>) { last if /^\r?\n/ }
print $client "HTTP/1.0 200 OK\r\n\r\n$text\n";
